"""`genhub bench`: every family that fits the data, trained for one time, measured alike, and one page of what came out."""
