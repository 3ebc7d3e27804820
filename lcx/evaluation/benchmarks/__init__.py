"""Published question sets: where their rows are, how they are asked, how they are scored."""
