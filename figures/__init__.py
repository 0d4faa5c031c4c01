"""The studies: each folder holds a page, the script that makes it, its records and its pictures. Not in the wheel."""
