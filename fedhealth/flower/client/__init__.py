"""The site's side of Flower: fleet client, message codec, the message in progress."""
