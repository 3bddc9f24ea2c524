"""The federation process: drives rounds over the fleet and publishes what they made.

It holds one run key a study and sees updates of that study alone; it never reaches a study key of lanes 1 to 3.
`rounds` is the loop, `grid` the way to the sites, `runs` the life of one study, `publish` the way into the registry.
"""
