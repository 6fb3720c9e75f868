"""dydist.cli"""
