"""Tell people and programs how it went: one file a format."""
