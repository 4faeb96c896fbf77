"""Write files whole or not at all, know which are ours, and read what strangers wrote."""
