"""The back office: the face of the product for the people who run it."""
