"""dydist.models.strategies"""
