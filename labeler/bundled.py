"""Name the small language model and the SAE that come with the package, and say where their files are."""

from pathlib import Path

_ASSETS = Path(__file__).parent / "demo"
SUBJECT_PATH = _ASSETS / "subject"
SAE_PATH = _ASSETS / "sae"
HOOKPOINT = "gpt_neox.layers.2"
CORPUS = "python-stdlib"

# Named for what they are: where this installation keeps them says nothing to a reader of a label set.
SUBJECT, SAE = "labeler-demo/subject", "labeler-demo/sae"
PATHS = {SUBJECT: SUBJECT_PATH, SAE: SAE_PATH}
