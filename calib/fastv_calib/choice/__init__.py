"""From measurements to figures with intervals, and to the plan that meets the objectives."""
