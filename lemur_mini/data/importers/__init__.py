"""Other people's logs, brought into the schema of `lemur_mini.data`."""
