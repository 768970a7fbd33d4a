"""How each language of the pages writes dates and times: short, with seconds, and the same everywhere."""
