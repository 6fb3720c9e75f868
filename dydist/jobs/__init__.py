"""dydist.jobs"""
