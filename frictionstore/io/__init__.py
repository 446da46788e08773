"""Where bytes are: folders, zip files, addresses; and how they get there whole."""
