"""The steps of labeling one feature, and the flow of many through them. labeler/pipeline.py puts them together."""
