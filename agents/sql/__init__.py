"""The statements of the verb agents, one file each."""
