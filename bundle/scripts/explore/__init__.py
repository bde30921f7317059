"""Looking at data: counts, headers, pictures, volumes for other programs."""
