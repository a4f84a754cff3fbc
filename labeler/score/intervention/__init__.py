"""Test a label by changing the subject: the only scorer that shows what a feature causes.

steer.py   where the subject is: it writes with a feature turned up, and without
texts.py   what it wrote, kept in the evidence folder
judge.py   where the LLM is: which of two texts is the steered one, by the label?
"""
