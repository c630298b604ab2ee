"""The consortium lead's side of trust: project, keys, certificates, members."""
