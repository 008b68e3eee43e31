"""How long does it remember?"""
