"""Pages for the browser: each one HTML file that needs no network, without a script except on the map."""
