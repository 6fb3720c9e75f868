"""dydist.data"""
