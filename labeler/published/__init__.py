"""SAEs as people publish them: which files make one, and what names and small configurations say of it.

Nothing here loads torch or reads weights: this decides what is downloaded, and lists what a repository or folder holds.
"""
