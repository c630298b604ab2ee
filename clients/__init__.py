"""The hospital's side: client application, institution, personalization."""
