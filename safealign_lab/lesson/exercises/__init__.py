"""The exercises of the kit, a module for each part of it: the blank, the check, the hints."""
