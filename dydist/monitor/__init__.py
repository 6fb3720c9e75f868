"""dydist.monitor"""
