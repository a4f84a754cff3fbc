"""Neuronpedia's formats: write, check and read the tree of its import, and answer like its API.

layout.py      names, keys and ids: what the tree must look like
rows.py        evidence and results -> rows of their tables
write.py       a label set -> the tree; metadata.py its plain files
lines.py       the tree -> rows, each with its place; problems name file, line and rule
check.py       the rules about the tree; rules.py those about rows
read.py        the tree -> evidence (labeler/evidence/given.py)
dashboards.py  SAEDashboard's batch JSON -> the same
labels.py      explanations and scores of a tree -> label sets; spool.py keeps the scores on disk meanwhile
mirror.py      one feature, as `GET /api/feature/{model}/{source}/{index}` answers

Written and read back, labels, defined scores with all their details, contexts with their exact activations, densities,
maxima, and promoted and suppressed tokens are the same. These do not come back, since the tree cannot hold them: features without a
label and their reasons, the reasons of undefined scores, simulations, prompts and costs, counts of firings and the activation
histogram, neighbors, the document of a context, and all contexts beyond the 20 TOP ones of EXPLAIN documents and the
30 firing and 10 silent ones of HELD_OUT documents that are written.
"""
