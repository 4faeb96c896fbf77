"""The captioning decoder, and how it writes."""
