"""dydist.engine"""
