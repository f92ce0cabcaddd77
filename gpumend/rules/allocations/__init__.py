"""GM8xx: a site's books of GPU allocations, against what Docker granted and what computes."""
