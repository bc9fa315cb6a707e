"""Architecture search: spaces, controllers that propose from them, ES-ENAS that trains both."""
