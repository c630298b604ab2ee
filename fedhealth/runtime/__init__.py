"""Where a job runs: in this process, on a Ray cluster, in the hospitals. The same applications everywhere."""
