"""The hospital's own ground: identity, approved members, private folders."""
