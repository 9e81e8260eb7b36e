"""What the documentation site takes from the code when it is built: nothing of it is written twice."""
