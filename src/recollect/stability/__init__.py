"""How far may the weights move, and which parameterisation holds?"""
