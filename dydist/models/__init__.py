"""dydist.models"""
