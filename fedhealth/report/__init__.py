"""The HTML report of a run, for hospital boards, doctors and data protection officers."""
