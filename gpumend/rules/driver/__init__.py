"""GM1xx: the driver, and the packages that bring it."""
