"""How long does learning stall, and how is that avoided?"""
