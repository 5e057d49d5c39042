"""Break runs at named places, let them go on, and compare what they end with to runs that were never broken."""
