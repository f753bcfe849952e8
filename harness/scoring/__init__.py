"""Accuracy: an accuracy log, decoded, split, scored by ROUGE and compared with reference answers."""
