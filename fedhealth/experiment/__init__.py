"""From a configuration to a finished run: launch, baselines, sweeps, tracking, privacy audit."""
