"""Housekeeping: what is kept no longer is removed, by one worker of the fleet."""
