"""Everything with a seed, a file or a figure; see README.md beside this file."""
