"""Import of label sets made elsewhere. Files are checked as a whole before anything is stored."""
