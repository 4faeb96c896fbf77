"""Parts that several data tools share."""
