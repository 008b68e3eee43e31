"""How wide must a network be?"""
