"""What was made elsewhere, brought in: files are checked as a whole before anything is stored."""
