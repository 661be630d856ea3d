"""One chip at the factory: provisioning, rehearsing, and a fleet of them."""
