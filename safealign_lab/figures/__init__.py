"""Every view of the kit, a module for each part of it: pure functions from parameters to a plotly Figure."""
