"""Trust that both sides share: signatures, certificates, members, requests and kits."""
