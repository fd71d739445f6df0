"""Recurrent cells, one file each; ``contract.py`` says what a cell is."""
