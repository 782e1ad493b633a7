"""What a session is: its name, its row of numbers, its remembered answers."""
