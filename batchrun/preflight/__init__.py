"""What a batch would do, known before it does it: would its inputs be taken, how long, how much. Starts nothing."""
