"""A small language model of Python code and an SAE on it, so that the first run needs no download."""

from pathlib import Path

SUBJECT_PATH = Path(__file__).parent / "subject"
SAE_PATH = Path(__file__).parent / "sae"
HOOKPOINT = "gpt_neox.layers.2"
CORPUS = "python-stdlib"

# Named for what they are: where this installation keeps them says nothing to a reader of a label set.
SUBJECT, SAE = "labeler-demo/subject", "labeler-demo/sae"
PATHS = {SUBJECT: SUBJECT_PATH, SAE: SAE_PATH}
